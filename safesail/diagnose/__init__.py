"""Which features of SAEs fire on a prompt, what they mean, and what is not explained."""
