"""Loading of weights trained with other classes or by other projects."""
