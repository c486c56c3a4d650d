"""Every test runs on TensorFlow as the notebooks start it, whichever file is collected first."""

import workbook.start  # noqa: F401
