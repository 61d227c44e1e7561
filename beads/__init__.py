"""What the feeder and the two functions share. Imports none of them."""
