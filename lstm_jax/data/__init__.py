"""Where files come from: verified downloads and the table of data sets."""
