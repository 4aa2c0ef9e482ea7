/* wal.h - the door of lib/wal. All of it is public: the room has no other face. */
#ifndef VS_WAL_H
#define VS_WAL_H

#include <vshard/wal.h>

#endif
