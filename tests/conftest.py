"""Every test runs on TensorFlow as the notebooks start it, whichever file is collected first."""

import siamese_utils  # noqa: F401
