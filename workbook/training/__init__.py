"""Triplets, batches, losses, and the loop that trains an embedding."""

import workbook.support.tensorflow_start  # noqa: F401  before any module here loads TensorFlow
