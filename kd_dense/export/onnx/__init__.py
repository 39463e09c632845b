"""A student as an ONNX graph, compared with the model; needs the extra ``kd_dense[export]``."""
