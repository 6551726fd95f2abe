"""The TVI-Derain network: restoration network R, text encoder E and interaction module M, behind
`Restorer`.
"""
