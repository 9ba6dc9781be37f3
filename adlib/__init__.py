"""adlib: what the notebooks of five papers on autoencoder anomaly detection would otherwise repeat."""

YES, NO = ("1", "yes", "true", "on", "y"), ("0", "no", "false", "off", "n")  # words of options and of the environment
