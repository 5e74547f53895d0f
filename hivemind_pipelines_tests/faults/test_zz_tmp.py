import sys, time
sys.path.insert(0,'/work/main')
from hivemind_pipelines_tests.faults.test_many_identical import *
import hivemind_pipelines.store.connection as c
from sqlalchemy import event
def test_it(store, capsys):
    insert_many(store, variants(COUNT))
    tot={}
    @event.listens_for(store._engine,"before_cursor_execute")
    def b(conn,cur,st,pa,ctx,many): ctx._t=time.perf_counter()
    @event.listens_for(store._engine,"after_cursor_execute")
    def a(conn,cur,st,pa,ctx,many):
        d=time.perf_counter()-ctx._t
        k=' '.join(st.split())[:70]; tot[k]=tot.get(k,0)+d
    def run(label,**k):
        tot.clear(); t=time.perf_counter(); cpu=time.process_time()
        r=distil(store,**k)
        print(label, round(time.perf_counter()-t,1),'s cpu',round(time.process_time()-cpu,1),{s.value:x.seconds for s,x in r.items()})
        for k,v in sorted(tot.items(),key=lambda x:-x[1])[:5]: print('   ',round(v,2),k)
    with capsys.disabled():
        run('refused',stages=MATCHING)
        run('merge',allow_mass_change=True, now=NOW + timedelta(hours=1))
        run('noop', now=NOW + timedelta(hours=2))
        late = insert_item(store, " ".join(WORDS) + " …")
        run('late', now=NOW + timedelta(hours=3))
        t=time.perf_counter(); quality_scores.run(store, NOW, policy(), RunId(uuid4())); print('quality',time.perf_counter()-t)
        [canonical] = rows(store, "SELECT id FROM public.knowledge_items WHERE expired_at IS NULL")
        delete_item(store, canonical.id)
        run('lost', now=NOW + timedelta(hours=4), allow_mass_change=True)
        t=time.perf_counter(); holds(store); print('inv',time.perf_counter()-t)
        t=time.perf_counter(); own_digest(store); print('digest',time.perf_counter()-t)
