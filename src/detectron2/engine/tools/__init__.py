"""The programs of ``tools/`` as functions: each module has `main` and `invoke_main`."""
