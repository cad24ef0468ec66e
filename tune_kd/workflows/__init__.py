"""What the commands do, from options to a finished study."""
