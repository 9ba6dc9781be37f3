"""adlib: networks, losses and scores of five papers on autoencoder anomaly detection, for their notebooks."""
