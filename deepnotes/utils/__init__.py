"""Errors, argument checks, text streams and atomic files for all other packages; this package imports none of those."""
