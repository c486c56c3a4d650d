"""Small tools without a subject of their own: text, files, locks, the start of TensorFlow."""
