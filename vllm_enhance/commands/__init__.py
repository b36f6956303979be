"""What `vllm-enhance` can do: one module a command."""
