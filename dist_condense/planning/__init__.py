"""What a run will cost, told before it starts: the work in numbers, the rates of a device, and what follows of them."""
