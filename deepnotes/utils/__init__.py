"""What every package uses: errors and their wording, checks of arguments, streams, files; it imports no other one."""
