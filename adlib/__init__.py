"""adlib: code that the notebooks of five papers on autoencoder anomaly detection share."""
