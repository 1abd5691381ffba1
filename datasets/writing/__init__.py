"""Writers of data sets in the layouts that our readers and other tools read; `converting` puts them together."""
