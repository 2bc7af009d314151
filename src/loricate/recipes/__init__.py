"""One readable function for each thing loricate does; the only place where wings meet."""
