"""How a neuron axis passes an operator: a row an operator type, and the rules behind the rows."""
