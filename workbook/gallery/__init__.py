"""Galleries: labelled embeddings that name new images."""

import workbook.support.tensorflow_start  # noqa: F401  before any module here loads TensorFlow
