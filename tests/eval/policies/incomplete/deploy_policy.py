def get_model(usr_args):
    return None
