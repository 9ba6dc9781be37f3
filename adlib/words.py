"""The words for yes and no in options and environment variables; without torch, for the command line."""

YES, NO = ("1", "yes", "true", "on", "y"), ("0", "no", "false", "off", "n")
