"""Self-supervised learning by contrast (SimCLR): learn features from images without labels, and evaluate them."""
