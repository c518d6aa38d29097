"""A camera with a known answer: two portraits in a call, one of them manipulated in part of the loop."""
