"""A matching step taken apart: what is read, what is drawn, what the network sees, and one file per way to take it.

Everything random is drawn and every image announced before the step, so that a step of a class is a function of
tensors: (theta, what is learnt, stored bytes of the real minibatch, draws) -> (loss, gradient, what is finite).
"""
