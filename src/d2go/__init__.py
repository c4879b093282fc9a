"""The place of D2Go: mobile and quantised models over ``detectron2``. Nothing is here yet."""
