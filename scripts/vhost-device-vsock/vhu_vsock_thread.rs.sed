449,452c\
                                let interest = if conn.host_ended {\
                                    epoll::Events::empty()\
                                } else {\
                                    epoll::Events::EPOLLIN\
                                };\
                                let _ = Self::epoll_modify(epoll_fd, fd, interest);
453a\
                            conn.after_flush();
