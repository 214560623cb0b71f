"""Image classification with a Vision Transformer: train it on labelled images, classify with it, look inside."""
