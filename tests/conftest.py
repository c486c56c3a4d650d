"""Every test runs on TensorFlow as the notebooks start it, whichever file is collected first."""

import workbook.support.tensorflow_start  # noqa: F401
