"""The scripts that made the goldens are run by hand, with other packages than the tests have."""

collect_ignore = ["goldens"]
