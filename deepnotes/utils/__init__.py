"""Errors, argument checks, text streams and atomic files for all other packages; imports none of them."""
