"""adlib: what the notebooks of five papers on autoencoder anomaly detection would otherwise repeat."""
