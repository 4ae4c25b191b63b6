"""Shared by all packages: errors and their wording, checks of arguments, streams, files. Imports none of the others."""
