"""What is wrong with data, as one kind of error."""


class DataError(ValueError):
    """A data set is damaged or not what it should be."""
