"""`vllm-enhance tune`: what similarity would have done on recorded traffic, without any engine."""
