"""The words that mean yes and no, of options and of environment variables; without torch, for the command line."""

YES, NO = ("1", "yes", "true", "on", "y"), ("0", "no", "false", "off", "n")
