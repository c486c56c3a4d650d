"""Backbones, saved models, and the kept output of the frozen layers."""

import workbook.support.tensorflow_start  # noqa: F401  before any module here loads TensorFlow
