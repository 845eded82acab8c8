"""The assistant without a language model: rules, plain words, and no pretence of more.

`backend` goes through the messages of a prompt, `skills` maps what is said to what is done, `moments`
understands when something should happen.
"""
