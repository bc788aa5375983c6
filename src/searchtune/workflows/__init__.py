"""One file per story a user can tell searchtune to act out. The only room that puts the others together."""
