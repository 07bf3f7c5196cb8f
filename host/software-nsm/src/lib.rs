//! A Nitro Secure Module in software, under a development root: requests and answers as /dev/nsm gives them.
