"""Errors, checks of arguments, text streams and atomic files, which all packages use; imports no other package."""
