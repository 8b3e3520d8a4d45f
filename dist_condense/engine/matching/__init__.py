"""Parts of a matching step: reads, draws, inputs of the network, and one module for each way to compute the step.

All random numbers are drawn and all images are announced before the step, so that the step of a class is a function of
tensors: (theta, learnt tensors, stored bytes of the real minibatch, draws) -> (loss, gradient, finite or not).
"""
