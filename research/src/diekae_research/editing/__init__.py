"""How edits are trained for, measured, and compared with the methods of the paper."""
