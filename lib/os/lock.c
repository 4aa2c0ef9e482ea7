/* lock.c - a lock that many may share or one may have. */
#include "os/os.h"

int vs_lock_init(struct vs_lock *lock)
{
    return pthread_rwlock_init(&lock->it, NULL) == 0 ? VSHARD_OK : VSHARD_ENOMEM;
}

void vs_lock_fini(struct vs_lock *lock)
{
    pthread_rwlock_destroy(&lock->it);
}

void vs_lock_share(struct vs_lock *lock)
{
    pthread_rwlock_rdlock(&lock->it);
}

void vs_lock_take(struct vs_lock *lock)
{
    pthread_rwlock_wrlock(&lock->it);
}

void vs_lock_leave(struct vs_lock *lock)
{
    pthread_rwlock_unlock(&lock->it);
}
