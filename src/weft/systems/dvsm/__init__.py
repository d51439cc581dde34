"""D-VSM: several views of a row, each with a node and a prediction of its own, in one graph over rows and views."""
