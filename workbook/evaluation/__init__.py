"""What an embedding is worth: retrieval, verification, results over seeds."""

import workbook.support.tensorflow_start  # noqa: F401  before any module here loads TensorFlow
