"""Decision policies: given the neighbours of a question, may a stored answer be reused?"""
