"""Quotas per tenant for vllm-enhance."""
