"""Projects: models of papers, built on the library's parts."""
