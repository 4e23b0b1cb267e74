"""The commands, by what they do; cli.py joins them."""
