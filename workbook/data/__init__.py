"""From a folder, or the name of a dataset, to arrays of images."""
